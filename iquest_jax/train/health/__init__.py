"""Checks of the hardware while it trains: errors that raise no error."""
