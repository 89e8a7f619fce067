"""What RepoRadar is measured beside. All answer the same addresses: login, read, change, bare and slow, under /bench/."""
