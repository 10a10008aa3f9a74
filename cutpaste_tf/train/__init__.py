"""Training of the proxy classifier (Section 2.1, Appendix A.1)."""
