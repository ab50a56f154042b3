-- Clients whose tokens are bound to a certificate instead of a DPoP key (RFC 8705, section 3.4, by its name there).

ALTER TABLE client ADD COLUMN tls_client_certificate_bound_access_tokens boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN client.tls_client_certificate_bound_access_tokens IS 'class: internal';
