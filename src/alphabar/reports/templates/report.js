"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const make = (name, parent, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    parent.append(made);
    return made;
  };
  const draw = (name, parent, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  };

  // Grids over time: a slider, and a button that moves it.
  for (const player of document.querySelectorAll(".player")) {
    const slider = player.querySelector("input"), frames = [...player.querySelectorAll("figure")];
    if (!slider) continue;
    const button = player.querySelector("button"), output = player.querySelector("output");
    let timer = 0;
    const show = () => {
      const chosen = Number(slider.value);
      frames.forEach((frame, index) => frame.classList.toggle("on", index === chosen));
      output.textContent = "step " + frames[chosen].dataset.step;
      slider.setAttribute("aria-valuetext", output.textContent);
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      button.textContent = "Play";
      button.setAttribute("aria-pressed", "false");
    };
    const start = () => {
      if (Number(slider.value) === frames.length - 1) slider.value = 0;
      show();
      button.textContent = "Pause";
      button.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === frames.length - 1) stop();
      }, Math.max(120, Math.min(700, 6000 / frames.length)));
    };
    slider.addEventListener("input", () => { stop(); show(); });
    button.addEventListener("click", () => (timer ? stop() : start()));
    show();
  }

  // Charts: the values at the step under the pointer, or chosen by arrow keys.
  for (const chart of document.querySelectorAll("svg[data-lines]")) {
    const lines = JSON.parse(chart.dataset.lines), top = chart.dataset.top, bottom = chart.dataset.bottom;
    const places = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    let tip = null, cursor = null, chosen = -1;
    const hide = () => {
      tip?.remove();
      cursor?.remove();
      tip = cursor = null;
    };
    const nearest = (items, x, at) =>
      items.reduce((best, item) => (Math.abs(at(item) - x) < Math.abs(at(best) - x) ? item : best));
    const show = (x) => {
      hide();
      chosen = places.indexOf(x);
      cursor = draw("g", chart, {});
      draw("line", cursor, { class: "cursor", x1: x, x2: x, y1: top, y2: bottom });
      tip = make("div", chart.parentElement, undefined, "tip");
      const title = make("div", tip);
      for (const line of lines) {
        const point = nearest(line.points, x, (each) => each[0]);
        if (Math.abs(point[0] - x) > 4) continue;
        if (!title.textContent) title.textContent = "step " + point[2].toLocaleString("en");
        draw("circle", cursor, { stroke: line.colour, cx: point[0], cy: point[1], r: 4 });
        const row = make("div", tip), key = draw("svg", row, { class: "key", viewBox: "0 0 18 6" });
        draw("line", key, { stroke: line.colour, x1: 0, x2: 18, y1: 3, y2: 3 });
        make("span", row, line.name);
        make("b", row, point[3]);
      }
      const box = chart.getBoundingClientRect(), width = chart.viewBox.baseVal.width;
      const shift = box.left - chart.parentElement.getBoundingClientRect().left, place = shift + (x / width) * box.width;
      if (x > width / 2) tip.style.right = chart.parentElement.clientWidth - place + 12 + "px";
      else tip.style.left = place + 12 + "px";
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      show(nearest(places, x, (place) => place));
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!move) return;
      event.preventDefault();
      const from = chosen < 0 ? (move > 0 ? -1 : places.length) : chosen;
      show(places[Math.max(0, Math.min(places.length - 1, from + move))]);
    });
  }

  // Tables: a click on a header sorts by its column, numbers as numbers and before words, what is empty last.
  const content = (row, index) => row.cells[index].textContent.trim();
  const parsed = (text) => {
    const plain = text.replaceAll(",", "").split(" ")[0];
    return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : null;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, index) => {
      const label = head.textContent;
      head.textContent = "";
      make("button", head, label).type = "button";
      head.firstChild.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const compare = (a, b) => {
          const [x, y] = [content(a, index), content(b, index)];
          if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
          const [m, n] = [parsed(x), parsed(y)];
          if ((m === null) !== (n === null)) return m === null ? 1 : -1;
          return sign * (m === null ? x.localeCompare(y, "en") : m - n);
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  }

  // Links open what they lead to; the navigation shows where one is.
  const open = () => {
    const goal = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!goal) return;
    for (let fold = goal.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    goal.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const section of document.querySelectorAll("main section")) watch.observe(section);
  root.dataset.ready = "yes";
})();
