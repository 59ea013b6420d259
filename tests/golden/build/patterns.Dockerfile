FROM BASE
COPY none* a.txt /none/
COPY [ab].t?t /class/
COPY [^a].txt /not/
COPY file[[]1].txt /bracket/
COPY d*/x /star/
COPY d*/s*/y /stars
COPY no*/no* /nothing/
