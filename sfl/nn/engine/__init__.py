"""How the layer's products are computed: operators, the reference form, the built CPU form."""
