// On a phone a row of a table is shown as a block: each cell needs the heading of its column then.
document.addEventListener('DOMContentLoaded', () => {
  for (const table of document.querySelectorAll('article table.docutils')) {
    const headings = [...table.querySelectorAll('thead th')].map((heading) => heading.textContent.trim());
    for (const row of table.querySelectorAll('tbody tr')) {
      [...row.children].forEach((cell, number) => {
        if (number && headings[number]) cell.dataset.heading = headings[number];
      });
    }
  }
});
