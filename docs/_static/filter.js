// A search field above each table of class "searchable": rows stay that have every word of it.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.searchable")) {
    const rows = [...table.tBodies[0].rows];
    const field = document.createElement("input");
    const count = document.createElement("output");
    field.type = "search";
    field.placeholder = "pixel, Orin, RK3588, ncnn ...";
    field.ariaLabel = "Search the devices";
    const filter = () => {
      const words = field.value.toLowerCase().split(/\s+/);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      count.value = ` ${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    field.addEventListener("input", filter);
    (table.closest(".table-wrapper") ?? table).before(field, count);
    filter();
  }
});
