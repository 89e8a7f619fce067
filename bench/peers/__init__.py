"""What RepoRadar is measured beside. All answer the same addresses: /bench/login, /bench/read, /bench/change, /bench/bare."""
