-- For psql, as a superuser. Safe to run again. Then set the roles' passwords with \password.
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;

-- audit
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'audit') THEN CREATE ROLE "audit"; END IF; ALTER ROLE "audit" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'audit_owner') THEN CREATE ROLE "audit_owner"; END IF; ALTER ROLE "audit_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "audit" RESET ALL;
ALTER ROLE "audit_owner" RESET ALL;
ALTER ROLE "audit" CONNECTION LIMIT 56;
ALTER ROLE "audit_owner" CONNECTION LIMIT 4;
ALTER ROLE "audit" SET lock_timeout = 2000;
ALTER ROLE "audit" SET statement_timeout = 5000;
ALTER ROLE "audit" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "audit" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "audit" SET search_path = 'public';
ALTER ROLE "audit_owner" SET search_path = 'public';
ALTER ROLE "audit" SET timezone = 'UTC';
ALTER ROLE "audit_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "audit" OWNER "audit_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'audit') \gexec
REVOKE ALL ON DATABASE "audit" FROM PUBLIC;
GRANT CONNECT ON DATABASE "audit" TO "audit";
ALTER ROLE "audit" IN DATABASE "audit" RESET ALL;
ALTER ROLE "audit_owner" IN DATABASE "audit" RESET ALL;
\connect audit
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres

-- identity
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'identity') THEN CREATE ROLE "identity"; END IF; ALTER ROLE "identity" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'identity_owner') THEN CREATE ROLE "identity_owner"; END IF; ALTER ROLE "identity_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "identity" RESET ALL;
ALTER ROLE "identity_owner" RESET ALL;
ALTER ROLE "identity" CONNECTION LIMIT 96;
ALTER ROLE "identity_owner" CONNECTION LIMIT 4;
ALTER ROLE "identity" SET lock_timeout = 2000;
ALTER ROLE "identity" SET statement_timeout = 5000;
ALTER ROLE "identity" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "identity" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "identity" SET search_path = 'public';
ALTER ROLE "identity_owner" SET search_path = 'public';
ALTER ROLE "identity" SET timezone = 'UTC';
ALTER ROLE "identity_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "identity" OWNER "identity_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'identity') \gexec
REVOKE ALL ON DATABASE "identity" FROM PUBLIC;
GRANT CONNECT ON DATABASE "identity" TO "identity";
ALTER ROLE "identity" IN DATABASE "identity" RESET ALL;
ALTER ROLE "identity_owner" IN DATABASE "identity" RESET ALL;
\connect identity
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres

-- ledger
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger') THEN CREATE ROLE "ledger"; END IF; ALTER ROLE "ledger" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger_owner') THEN CREATE ROLE "ledger_owner"; END IF; ALTER ROLE "ledger_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "ledger" RESET ALL;
ALTER ROLE "ledger_owner" RESET ALL;
ALTER ROLE "ledger" CONNECTION LIMIT 192;
ALTER ROLE "ledger_owner" CONNECTION LIMIT 4;
ALTER ROLE "ledger" SET lock_timeout = 2000;
ALTER ROLE "ledger" SET statement_timeout = 5000;
ALTER ROLE "ledger" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "ledger" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "ledger" SET search_path = 'public';
ALTER ROLE "ledger_owner" SET search_path = 'public';
ALTER ROLE "ledger" SET timezone = 'UTC';
ALTER ROLE "ledger_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "ledger" OWNER "ledger_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'ledger') \gexec
REVOKE ALL ON DATABASE "ledger" FROM PUBLIC;
GRANT CONNECT ON DATABASE "ledger" TO "ledger";
ALTER ROLE "ledger" IN DATABASE "ledger" RESET ALL;
ALTER ROLE "ledger_owner" IN DATABASE "ledger" RESET ALL;
\connect ledger
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres

-- notify
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'notify') THEN CREATE ROLE "notify"; END IF; ALTER ROLE "notify" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'notify_owner') THEN CREATE ROLE "notify_owner"; END IF; ALTER ROLE "notify_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "notify" RESET ALL;
ALTER ROLE "notify_owner" RESET ALL;
ALTER ROLE "notify" CONNECTION LIMIT 80;
ALTER ROLE "notify_owner" CONNECTION LIMIT 4;
ALTER ROLE "notify" SET lock_timeout = 2000;
ALTER ROLE "notify" SET statement_timeout = 5000;
ALTER ROLE "notify" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "notify" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "notify" SET search_path = 'public';
ALTER ROLE "notify_owner" SET search_path = 'public';
ALTER ROLE "notify" SET timezone = 'UTC';
ALTER ROLE "notify_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "notify" OWNER "notify_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'notify') \gexec
REVOKE ALL ON DATABASE "notify" FROM PUBLIC;
GRANT CONNECT ON DATABASE "notify" TO "notify";
ALTER ROLE "notify" IN DATABASE "notify" RESET ALL;
ALTER ROLE "notify_owner" IN DATABASE "notify" RESET ALL;
\connect notify
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres

-- payments
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payments') THEN CREATE ROLE "payments"; END IF; ALTER ROLE "payments" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payments_owner') THEN CREATE ROLE "payments_owner"; END IF; ALTER ROLE "payments_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "payments" RESET ALL;
ALTER ROLE "payments_owner" RESET ALL;
ALTER ROLE "payments" CONNECTION LIMIT 384;
ALTER ROLE "payments_owner" CONNECTION LIMIT 4;
ALTER ROLE "payments" SET lock_timeout = 2000;
ALTER ROLE "payments" SET statement_timeout = 5000;
ALTER ROLE "payments" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "payments" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "payments" SET search_path = 'public';
ALTER ROLE "payments_owner" SET search_path = 'public';
ALTER ROLE "payments" SET timezone = 'UTC';
ALTER ROLE "payments_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "payments" OWNER "payments_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'payments') \gexec
REVOKE ALL ON DATABASE "payments" FROM PUBLIC;
GRANT CONNECT ON DATABASE "payments" TO "payments";
ALTER ROLE "payments" IN DATABASE "payments" RESET ALL;
ALTER ROLE "payments_owner" IN DATABASE "payments" RESET ALL;
\connect payments
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres

-- risk
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'risk') THEN CREATE ROLE "risk"; END IF; ALTER ROLE "risk" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'risk_owner') THEN CREATE ROLE "risk_owner"; END IF; ALTER ROLE "risk_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "risk" RESET ALL;
ALTER ROLE "risk_owner" RESET ALL;
ALTER ROLE "risk" CONNECTION LIMIT 144;
ALTER ROLE "risk_owner" CONNECTION LIMIT 4;
ALTER ROLE "risk" SET lock_timeout = 2000;
ALTER ROLE "risk" SET statement_timeout = 5000;
ALTER ROLE "risk" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "risk" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "risk" SET search_path = 'public';
ALTER ROLE "risk_owner" SET search_path = 'public';
ALTER ROLE "risk" SET timezone = 'UTC';
ALTER ROLE "risk_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "risk" OWNER "risk_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'risk') \gexec
REVOKE ALL ON DATABASE "risk" FROM PUBLIC;
GRANT CONNECT ON DATABASE "risk" TO "risk";
ALTER ROLE "risk" IN DATABASE "risk" RESET ALL;
ALTER ROLE "risk_owner" IN DATABASE "risk" RESET ALL;
\connect risk
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres

-- vault
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vault') THEN CREATE ROLE "vault"; END IF; ALTER ROLE "vault" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vault_owner') THEN CREATE ROLE "vault_owner"; END IF; ALTER ROLE "vault_owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT; END $$;
ALTER ROLE "vault" RESET ALL;
ALTER ROLE "vault_owner" RESET ALL;
ALTER ROLE "vault" CONNECTION LIMIT 192;
ALTER ROLE "vault_owner" CONNECTION LIMIT 4;
ALTER ROLE "vault" SET lock_timeout = 2000;
ALTER ROLE "vault" SET statement_timeout = 5000;
ALTER ROLE "vault" SET idle_in_transaction_session_timeout = 10000;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN EXECUTE $sql$ALTER ROLE "vault" SET transaction_timeout = 10000$sql$; END IF; END $$;
ALTER ROLE "vault" SET search_path = 'public';
ALTER ROLE "vault_owner" SET search_path = 'public';
ALTER ROLE "vault" SET timezone = 'UTC';
ALTER ROLE "vault_owner" SET timezone = 'UTC';
SELECT 'CREATE DATABASE "vault" OWNER "vault_owner" TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'vault') \gexec
REVOKE ALL ON DATABASE "vault" FROM PUBLIC;
GRANT CONNECT ON DATABASE "vault" TO "vault";
ALTER ROLE "vault" IN DATABASE "vault" RESET ALL;
ALTER ROLE "vault_owner" IN DATABASE "vault" RESET ALL;
\connect vault
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
\connect postgres
