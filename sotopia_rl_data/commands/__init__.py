"""The commands of the core: thin click functions, each calling one library function. Imported only when called."""
