"""Linear regions inside a domain: their enumeration, their graph, their geometry."""
