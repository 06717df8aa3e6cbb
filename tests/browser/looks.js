// What the tests ask a page about its looks; every function returns a list of faults.
({
  // Text nodes that are seen, each with its element.
  texts() {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    for (let node; (node = walker.nextNode());) {
      const parent = node.parentElement;
      if (!node.data.trim() || parent.closest("script, style, option")) continue;
      if (!parent.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      const boxes = [...range.getClientRects()].filter((box) => box.width > 1 && box.height > 1);
      if (boxes.length) found.push({ node, parent, boxes });
    }
    return found;
  },

  // WCAG's contrast of every text with the paper behind it.
  contrasts() {
    const parts = (colour) => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data].map((one) => one / 255);
    };
    const luminance = ([red, green, blue]) => {
      const [r, g, b] = [red, green, blue].map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
    const paper = (element) => {
      if (!element) return parts("Canvas");
      const colour = parts(getComputedStyle(element).backgroundColor);
      return colour[3] === 1 ? colour : over(colour, paper(element.parentElement));
    };
    return this.texts().map(({ node, parent }) => {
      const style = getComputedStyle(parent);
      const behind = paper(parent), ink = over(parts(parent.ownerSVGElement ? style.fill : style.color), behind);
      const [low, high] = [luminance(ink), luminance(behind)].sort((a, b) => a - b);
      const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
      const off = parent.closest(":disabled") !== null; // WCAG asks nothing of what cannot be used
      return { text: node.data.trim().slice(0, 60), ratio: (high + 0.05) / (low + 0.05), needed: off ? 0 : large ? 3 : 4.5 };
    });
  },

  // Whatever reaches beyond the screen, or is cut by its own box.
  cut() {
    const wide = document.documentElement.scrollWidth;
    const found = wide > innerWidth ? [`the page is ${wide} wide`] : [];
    for (const region of document.querySelectorAll(".wide")) {
      if (region.scrollWidth > region.clientWidth) found.push(`a table is ${region.scrollWidth} of ${region.clientWidth}`);
    }
    for (const { node, parent, boxes } of this.texts()) {
      const cell = parent.closest("td, th");
      const around = cell ? cell.getBoundingClientRect() : { left: 0, right: innerWidth };
      const out = boxes.some((box) => box.left < around.left - 1 || box.right > around.right + 1);
      if (out) found.push(`${cell ? cell.tagName : "page"} cuts ${node.data.trim().slice(0, 60)}`);
    }
    return found;
  },

  // Elements that a keyboard must reach; of the tokens of one answer only one stop.
  stops() {
    const all = document.querySelectorAll("a[href], button, select, input, summary, [tabindex]");
    return [...all].filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled && one.tabIndex >= 0);
  },

  // A name by which a test tells kinds of elements apart.
  kind(element) {
    return [element.tagName.toLowerCase(), element.getAttribute("class") ?? "", element.type ?? ""].join(" ")
      .replace(/ d\d+\b/, "").trim();
  },
})
