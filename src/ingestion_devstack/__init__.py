"""The embedded stack for laptops and tests. What does not belong: anything the product needs."""
