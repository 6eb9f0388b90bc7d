//! Rendering: values from `analysis` to text, JSON, SVG and the formats of other tools.
