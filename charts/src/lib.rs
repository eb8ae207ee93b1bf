//! The values of the Helm charts.
