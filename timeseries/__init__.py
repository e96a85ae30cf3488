"""Time series: forecasting, imputation and synthesis."""
