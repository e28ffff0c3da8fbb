"""The dense and looped transformers: parameters and arrays in, arrays out."""
