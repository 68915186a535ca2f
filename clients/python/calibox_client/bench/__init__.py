"""How fast a live server answers: connections that cost little, closed and open loops, and what is told of them."""
