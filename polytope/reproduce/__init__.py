"""The tables and figures of the papers: trained or loaded, measured, published beside measured."""
