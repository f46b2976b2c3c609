"""Evidence: treatments of the same portraits side by side, judged by recognisers that took no part in them."""
