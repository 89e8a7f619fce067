// The texts of a page whose contrast with their ground is below 4.5 (WCAG 2.2, 1.4.3; large text is not spared).
() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = channels(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return channels(color)[3] === 0 ? ground(element.parentElement) : color;
  };
  const contrast = (element) => {
    const ink = getComputedStyle(element)[element instanceof SVGElement ? "fill" : "color"];
    const pair = [luminance(ink), luminance(ground(element))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const holdsText = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const says = (element) => holdsText(element) && !["title", "desc"].includes(element.localName); // those of charts are not drawn
  return [...document.body.querySelectorAll("*")]
    .filter((element) => says(element) && contrast(element) < 4.5)
    .map((element) => `${element.textContent}: ${contrast(element).toFixed(2)}`);
};
