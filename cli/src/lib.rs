//! `halo`: what a platform engineer runs beside kubectl and helm.
