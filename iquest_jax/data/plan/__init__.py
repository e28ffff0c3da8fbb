"""Plans a mixture of programming languages by the multilingual scaling law; no other room imports it."""
