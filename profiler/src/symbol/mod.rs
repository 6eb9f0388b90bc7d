//! From addresses to names.
