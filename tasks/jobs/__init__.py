"""One job from claim to end: launch and observe its attempts, finish each, decide whether another one follows."""
