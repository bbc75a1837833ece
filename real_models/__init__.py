"""Published architectures at small size: what symbreak says about models it has never seen."""
