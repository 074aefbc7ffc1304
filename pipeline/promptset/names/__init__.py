"""The names under which users know fields, samplers and schedules, brought to our own."""
