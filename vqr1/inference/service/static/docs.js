// Lists what /openapi.json describes: endpoints, bodies, answers and their fields.
"use strict";

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function resolve(document_, schema) {
  if (!schema || !schema.$ref) return schema ?? {};
  return document_.components.schemas[schema.$ref.split("/").pop()];
}

function typeOf(document_, schema) {
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(document_, one)).join(" or ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `list of ${typeOf(document_, schema.items)}`;
  return schema.format ?? schema.type ?? "any";
}

function table(rows) {
  const body = rows.map((cells) => element("tr", "", ...cells.map((cell) => element("td", cell))));
  return element("table", "", element("tbody", "", ...body));
}

function count(field) {
  return field.maxItems ? ` (${field.minItems} to ${field.maxItems})` : "";
}

function rows(document_, schema, before) { // of what is nested too, where it has no name of its own
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const needed = (schema.required ?? []).includes(name) ? "" : ", optional";
    const row = [`${before}${name}`, `${typeOf(document_, field)}${count(field)}${needed}`,
      field.description ?? ""];
    return [row, ...rows(document_, field.items ?? {}, `${before}${name}[].`)];
  });
}

function fields(document_, schema) {
  return table(rows(document_, schema, ""));
}

function operation(document_, method, path, described) {
  const section = element("section", "", element("h2", `${method.toUpperCase()} ${path}`));
  section.append(element("p", described.description ?? described.summary ?? ""));
  for (const [kind, media] of Object.entries(described.requestBody?.content ?? {})) {
    section.append(element("h3", `Body: ${kind}`), fields(document_, media.schema));
  }
  const json = described.responses["200"]?.content?.["application/json"];
  if (json) {
    section.append(element("h3", "Answer"), fields(document_, resolve(document_, json.schema)));
  }
  section.append(element("h3", "Status"), table(
    Object.entries(described.responses).map(([status, answer]) => [status, answer.description]),
  ));
  return section;
}

fetch("/openapi.json").then((response) => response.json()).then((document_) => {
  const place = document.getElementById("endpoints");
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, described] of Object.entries(methods)) {
      place.append(operation(document_, method, path, described));
    }
  }
  place.append(element("h2", "Records"));
  for (const [name, schema] of Object.entries(document_.components.schemas)) {
    place.append(element("h3", name), fields(document_, schema));
  }
});
