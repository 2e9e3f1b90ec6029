// --- Confusion matrices: the cell under the pointer, or reached by arrow keys, is named
for (const matrix of document.querySelectorAll(".matrix")) {
  const { classes, totals, cells } = JSON.parse(document.getElementById(matrix.id + "-data").textContent);
  const readout = document.getElementById(matrix.id + "-readout"), svg = matrix.firstElementChild;
  const cursor = svg.querySelector(".cursor"), cell = +svg.dataset.cell, label = +svg.dataset.label;
  const counts = new Map(cells.map(([truth, predicted, rows]) => [truth * classes.length + predicted, rows]));
  let at = null;
  const go = (truth, predicted) => {
    if (Math.min(truth, predicted) < 0 || Math.max(truth, predicted) >= classes.length) return false;
    at = [truth, predicted];
    const rows = counts.get(truth * classes.length + predicted) ?? 0, of = totals[truth];
    const share = of ? ` (${(100 * rows / of).toFixed(1)} %)` : "";
    readout.textContent = `true ${classes[truth]} → predicted ${classes[predicted]}: ${rows} of ${of} rows${share}`;
    cursor.setAttribute("x", label + predicted * cell);
    cursor.setAttribute("y", label + truth * cell);
    cursor.setAttribute("visibility", "visible");
    return true;
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    go(Math.floor((event.clientY - box.top - label) / cell), Math.floor((event.clientX - box.left - label) / cell));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  matrix.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    if (at ? go(at[0] + move[0], at[1] + move[1]) : go(0, 0)) cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
