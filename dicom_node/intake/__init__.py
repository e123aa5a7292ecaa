"""Reception: keep the instance, record it, answer its sender."""
