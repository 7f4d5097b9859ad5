//! Topic-level properties.
