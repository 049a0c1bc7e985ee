"""What the math judge needs: reading an answer, numbers, equality."""
