// Shows the OpenAPI document with Swagger UI.
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  showExtensions: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the document stays here
});
