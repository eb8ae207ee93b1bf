//! Requests that wait for a pod: in order, bounded, and told how far they are.
//!
//! [`line`] decides who is dispatched where, [`wake`] what a wake takes; both are pure and take the time in milliseconds of any
//! steady clock. [`hall`] is the edge: it asks the directory; each request's task has a [`place`] in it.

pub mod hall;
pub mod line;
pub mod place;
pub mod wake;
