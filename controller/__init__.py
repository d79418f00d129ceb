"""Keeps what operators asked for and decides what runs where; one of several leads."""
