"""What a call used and what that costs: usage read from answers, dated prices, ceilings before and costs after."""
