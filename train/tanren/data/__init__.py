"""Reading and checking data before anything is trained on it."""
