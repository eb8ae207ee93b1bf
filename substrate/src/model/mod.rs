//! Loading a model, and the reference engine.
