// Shows the OpenAPI document with Redoc.
Redoc.init("openapi.json", {}, document.getElementById("redoc"));
