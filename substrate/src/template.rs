//! The model's chat template.
