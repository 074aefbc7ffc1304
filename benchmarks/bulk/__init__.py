"""What a million rows cost: time, memory and Redis, from `submit` over `status` to the gallery."""
