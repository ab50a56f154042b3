-- Tokens: a random id, what may be seen, and the number under a key of this token's own (chassis: data_key, kind subject).
CREATE TABLE token (
    id           uuid        NOT NULL PRIMARY KEY,
    tenant       text        NOT NULL CHECK (tenant ~ '^[a-z][a-z0-9-]{0,39}$'),
    type         text        NOT NULL CHECK (type IN ('card', 'bank_account')),
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL,
    brand        text,
    bin          text        CHECK (bin ~ '^[0-9]{6}$'),
    last4        text        CHECK (last4 ~ '^[0-9A-Z]{4}$'),
    exp_month    smallint    CHECK (exp_month BETWEEN 1 AND 12),
    exp_year     smallint    CHECK (exp_year BETWEEN 2000 AND 2199),
    country      text        CHECK (country ~ '^[A-Z]{2}$'),
    fingerprint  text,
    sealed       bytea,
    destroyed_at timestamptz,
    -- A token has its number, or it was destroyed and has nothing left.
    CONSTRAINT token_whole_or_destroyed CHECK (
        CASE WHEN destroyed_at IS NULL
            THEN sealed IS NOT NULL AND last4 IS NOT NULL AND fingerprint IS NOT NULL
                AND (type = 'card') = (num_nulls(brand, bin, exp_month, exp_year) = 0)
                AND (type = 'bank_account') = (country IS NOT NULL)
            ELSE num_nonnulls(sealed, last4, fingerprint, brand, bin, exp_month, exp_year, country) = 0
        END
    )
);
-- The tokens of one number: for a merchant's question, and for erasure.
CREATE INDEX token_fingerprint ON token (tenant, fingerprint) WHERE fingerprint IS NOT NULL;

COMMENT ON TABLE token IS 'What stands for a card or bank account number.';
COMMENT ON COLUMN token.id IS 'class: internal';
COMMENT ON COLUMN token.tenant IS 'class: internal';
COMMENT ON COLUMN token.type IS 'class: internal';
COMMENT ON COLUMN token.created_by IS 'class: internal';
COMMENT ON COLUMN token.created_at IS 'class: internal';
COMMENT ON COLUMN token.brand IS 'class: internal';
COMMENT ON COLUMN token.bin IS 'class: cardholder';
COMMENT ON COLUMN token.last4 IS 'class: cardholder';
COMMENT ON COLUMN token.exp_month IS 'class: cardholder';
COMMENT ON COLUMN token.exp_year IS 'class: cardholder';
COMMENT ON COLUMN token.country IS 'class: personal';
COMMENT ON COLUMN token.fingerprint IS 'class: personal';
COMMENT ON COLUMN token.sealed IS 'class: cardholder';
COMMENT ON COLUMN token.destroyed_at IS 'class: internal';

-- No DELETE, and of an existing row only what destroying it takes away.
GRANT SELECT, INSERT ON token TO :service_role;
GRANT UPDATE (brand, bin, last4, exp_month, exp_year, country, fingerprint, sealed, destroyed_at) ON token TO :service_role;
