"""The servers that are compared. All have the same routes: /bench/login, read, change, bare and slow."""
