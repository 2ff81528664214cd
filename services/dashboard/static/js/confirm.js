// A question before what cannot be taken back, in a dialog of the page: `hx-confirm` says what is asked.
// `data-confirm-yes` is the word on the button; `data-confirm-for` asks only when a form holds this value.
(() => {
  const dialog = document.getElementById("confirm");
  const words = document.getElementById("confirm-words");
  const yes = document.getElementById("confirm-yes");
  let asked;

  document.addEventListener("htmx:confirm", (event) => {
    const { elt, question, issueRequest } = event.detail;
    if (!question) return;
    event.preventDefault();
    const only = elt.dataset.confirmFor;
    if (only && ![...new FormData(elt).values()].includes(only)) { issueRequest(true); return; }
    words.textContent = question;
    yes.textContent = elt.dataset.confirmYes;
    asked = { elt, issueRequest };
    dialog.showModal();
  });
  yes.addEventListener("click", () => {
    asked.issueRequest(true);
    asked = null;
    dialog.close();
  });
  dialog.addEventListener("close", () => {
    if (!asked) return;
    const { elt } = asked;
    asked = null;
    // a choice that was taken back is shown as it was
    if (elt.reset) elt.reset();
    (elt.elements ? elt.elements[0] : elt).focus();
  });
})();
