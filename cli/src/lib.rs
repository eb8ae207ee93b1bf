//! `halo`: what a platform engineer runs beside kubectl and helm.
//!
//! [`check`] finds out what is missing, [`ledger`] makes the table that receipts are kept in, [`session`] goes through everything that a
//! device does and verifies the receipts of it.

pub mod check;
pub mod cli;
pub mod ledger;
pub mod session;
