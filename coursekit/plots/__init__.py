"""Pictures of measurements: every function takes data and returns a Matplotlib figure.

The functions live in `blocking`, `prefill_decode` and `roofline`; the look they share is in
`style`. Importing any of them does not load Matplotlib: drawing does.
"""
