"""Mutation testing of the rules that move money and of the guards in the database: each small change to them must make a test fail.

    python -m tools.mutation python [--only limits.py] [--sample 60]    the models of ledger, payments and risk, kernel/money.py
    python -m tools.mutation sql [--sample 20]                          constraints, triggers and guard functions of ledger and
                                                                        payments, as the migrated database has them

General tools (mutmut, cosmic-ray) start an interpreter and a whole test run for each change, and know no SQL. Here everything but what is changed is
imported once, and each change is tried in a forked process.
"""
