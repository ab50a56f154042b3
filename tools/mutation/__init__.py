"""Mutation testing of the ledger's rules and of the database's guards: each small change to them must make a test fail.

    python -m tools.mutation python [--only limits.py] [--sample 60]    the modules of services/ledger/model
    python -m tools.mutation sql [--sample 20]                          CHECKs and guard functions, as the migrated database has them

General tools (mutmut, cosmic-ray) start an interpreter and a whole test run for each change, and know no SQL. Here everything but the ledger is imported
once, and each change is tried in a forked process.
"""
