"""Mutation testing of the rules that move money and of the ledger's guards in the database: each small change to them must make a test fail.

    python -m tools.mutation python [--only limits.py] [--sample 60]    the models of ledger and payments, kernel/money.py
    python -m tools.mutation sql [--sample 20]                          CHECKs and guard functions, as the migrated database has them

General tools (mutmut, cosmic-ray) start an interpreter and a whole test run for each change, and know no SQL. Here everything but what is changed is
imported once, and each change is tried in a forked process.
"""
