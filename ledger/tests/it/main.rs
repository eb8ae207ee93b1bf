//! The SQLite ledger against real files.

mod conformance;
