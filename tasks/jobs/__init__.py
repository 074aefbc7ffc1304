"""One job from claim to end: launching, observing, what an ended attempt left, whether another one follows."""
