"""The client, without a network and over one."""
