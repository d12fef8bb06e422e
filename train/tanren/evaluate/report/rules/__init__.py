"""Rules by what they look at. Each yields advice where its numbers are past its threshold."""
