"""The engine: one training step over populations; it knows no algorithm and no environment."""
